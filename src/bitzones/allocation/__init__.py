"""Which format each unit gets: the knapsack, its relaxation, the cost in time, and baselines of equal size."""
