"""The process around the job: files, threads, launchers, shortages."""
