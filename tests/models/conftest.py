"""What pytest must not import: the maker of the golden files needs torch."""

collect_ignore = [f"golden/{name}.py" for name in ("make", "make_beams", "make_kosmos", "pretrained", "texts")]
