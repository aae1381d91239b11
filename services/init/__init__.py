"""Init: the boot list. The only place that knows the kernel, the drivers, the system calls and the SDK at once."""
