"""Floor 4: the empirical studies. `collect` runs probes and writes one record a sample; other files turn records into
tables and know no model. Reports draw them."""
