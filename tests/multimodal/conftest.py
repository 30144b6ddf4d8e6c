"""What pytest must not import: the maker of the golden files needs transformers."""

collect_ignore = ["golden/make.py"]
