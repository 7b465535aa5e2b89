"""Fault injection: every function of jitwatch that runs in a job is made to fail, and the job must not notice."""
