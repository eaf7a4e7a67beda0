"""The learner of `agents/preference_policy.py`: episodes, a policy near a reference, and its gradient steps."""
