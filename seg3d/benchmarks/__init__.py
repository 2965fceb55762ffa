"""What `scripts/bench_*` run: seg3d against the other ways to train in less memory."""
