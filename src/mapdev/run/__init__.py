"""A program run where devices of ours are in its /dev, /proc and /sys."""
