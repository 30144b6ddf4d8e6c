"""In-context learning compared with fine-tuning on the same demonstrations, with the controls that tell them apart."""
