"""Training, evaluation, logging and configuration: what joins `ssm` and `tasks`."""
