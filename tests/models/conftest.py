"""What pytest must not import: the maker of the golden files needs torch."""

collect_ignore = ["golden/make.py", "golden/make_kosmos.py", "golden/pretrained.py", "golden/texts.py"]
