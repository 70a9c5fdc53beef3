"""Mounts of the host through FUSE: a filesystem's tree, or devices as raw files."""
