"""What every room may use: errors, types, retry, progress."""
