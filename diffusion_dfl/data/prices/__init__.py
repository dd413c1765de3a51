"""Prices: sources, checks, simulated prices and the contexts of the portfolio task."""

from diffusion_dfl.data.prices.features import PriceFeatures, price_features, target_dates
from diffusion_dfl.data.prices.panel import (
    EVERY_DAY,
    Jump,
    PricePanel,
    Window,
    find_jumps,
    price_panel,
    report_jumps,
)
from diffusion_dfl.data.prices.quandl import QuandlPrices
from diffusion_dfl.data.prices.simulated import simulated_prices
from diffusion_dfl.data.prices.sources import (
    CsvPrices,
    PriceSource,
    SimulatedPrices,
    SkfolioPrices,
    Sp500Prices,
    sp500_list,
)

__all__ = [
    "EVERY_DAY",
    "CsvPrices",
    "Jump",
    "PriceFeatures",
    "PricePanel",
    "PriceSource",
    "QuandlPrices",
    "SimulatedPrices",
    "SkfolioPrices",
    "Sp500Prices",
    "Window",
    "find_jumps",
    "price_features",
    "price_panel",
    "report_jumps",
    "simulated_prices",
    "sp500_list",
    "target_dates",
]
