def write_page(path, found):
    pass
