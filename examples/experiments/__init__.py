"""Many runs, their statistics, reports and figures."""
