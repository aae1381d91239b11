"""Services: long-running user-space servers, each a folder."""

if __name__ != "llmos.services":
    raise ImportError("the folder services/ is imported as llmos.services")
