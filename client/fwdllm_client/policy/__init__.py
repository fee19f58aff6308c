"""What the owner of a device allows: settings, choices and permissions."""
