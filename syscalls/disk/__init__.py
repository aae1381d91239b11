"""Files on the disk: homes with a quota and versions, temporary files, and files of the machine. Never on the kernel's thread."""
