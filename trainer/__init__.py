"""Everything around training that is not the mathematics: data, models, evaluation, reports, CLI."""
