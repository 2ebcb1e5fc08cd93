"""Everything around training but the mathematics: data, models, evaluation, reports, CLI."""
