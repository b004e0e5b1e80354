"""Prefect flows: the chains of stages; they compute nothing."""
