"""The owner's policy for a device: settings, choices and permissions."""
