"""One suite of runs for every place where a run can be: this machine, hosts of a fleet, machines that are rented."""
