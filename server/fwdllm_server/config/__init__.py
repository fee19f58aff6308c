"""What operators write: job files, presets, the server's configuration and its folder."""
