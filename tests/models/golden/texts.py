"""The texts of pretrained.py, for which the golden files of the two installed models were made."""

STEPS = 16
CHAT = [{"role": "user", "content": "What is the capital of France?"}]
PROMPTS = (
    "The quick brown fox jumps over the lazy dog, and then",
    "def area(r):\n    return 3.14159 * r ** 2  # 2024\n",
)
SENTENCES = (
    "Hello.",
    "A cat sits on the mat.",
    "The costate runs backward through training, from the last step to the first.",
    "Naïve café, 東京, 12,345.67 and an e-mail address.",
    " ".join(["Long sentences are averaged over many tokens."] * 12),
    "a",
)
