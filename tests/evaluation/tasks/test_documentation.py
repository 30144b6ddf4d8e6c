from pmpjax.data.sources.installed import Budget
from pmpjax.evaluation.tasks.documentation import installed_documentation
from pmpjax.evaluation.tasks.make import Sizes

SMALL = Budget(docstring=150_000, code=0, readme=0, changelog=0, licence=0, data=0)


def test_docstrings_of_installed_packages():
    task = installed_documentation(budget=SMALL, sizes=Sizes(classes=4, per_class=40), characters=120)
    assert len(task.classes) == 4 and len(task.texts) == len(set(task.texts)) > 40
    assert all(40 < len(text) <= 120 and "\n" not in text for text in task.texts)
    again = installed_documentation(budget=SMALL, sizes=Sizes(classes=4, per_class=40), characters=120, seed=1)
    assert again.texts == task.texts and again.splits["test"].tolist() != task.splits["test"].tolist()
