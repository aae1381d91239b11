"""The shell: llmsh and the llmos command."""

if __name__ != "llmos.shell":
    raise ImportError("the folder shell/ is imported as llmos.shell")
