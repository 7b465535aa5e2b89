"""Every sentence and number that a person reads."""
