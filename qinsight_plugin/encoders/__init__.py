"""The encoders that the parameter search can drive; registered through a hook, as any other."""
