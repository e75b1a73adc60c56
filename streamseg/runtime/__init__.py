"""What every thread and process stands on: stages, mailboxes, ordered workers, child processes, files."""
