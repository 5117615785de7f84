"""Many runs that differ in a number, a seed or a choice."""
