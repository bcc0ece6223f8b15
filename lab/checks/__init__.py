"""The checks: one file each, which defines CHECK (lab/check.py), and in guest/ the scripts that run there."""
