"""Training a reasoning model by group relative policy optimisation (GRPO), as Q-Insight was."""
