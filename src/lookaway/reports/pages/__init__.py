"""The sections of the report page: sentences, figures and the numbers behind them."""
