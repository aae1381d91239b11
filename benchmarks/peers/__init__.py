"""One adapter per engine; `catalogue` says which there are. No adapter imports its engine before it is started."""
