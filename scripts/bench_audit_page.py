"""The page of scripts/bench_audit.py, written from its JSON."""


def write_page(path, found):
    raise NotImplementedError
