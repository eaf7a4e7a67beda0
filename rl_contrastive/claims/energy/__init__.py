"""Studies: a comparison of learners on one kind of data, with equal tuning, seeds, intervals, plots and bars."""
