"""The currencies that people pay in, and their minor units. Pure."""

from decimal import Decimal


def _codes(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Source: ISO 4217, table A.1 (SIX, list one of 2024-06-25): the codes of money that people pay with, by their minor
# unit. Funds, metals, testing codes and units of account (CLF, UYW: four decimals) are left out: nobody pays in them.
NO_DECIMALS = _codes("BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF")
THREE_DECIMALS = _codes("BHD IQD JOD KWD LYD OMR TND")
TWO_DECIMALS = _codes(
    """
    AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY COP CRC
    CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES
    KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR
    NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT
    TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD YER ZAR ZMW ZWG
    """
)
CURRENCIES = NO_DECIMALS | TWO_DECIMALS | THREE_DECIMALS


def minor_unit(currency: str) -> Decimal:
    """The smallest amount of a currency: 0.01 USD, 1 JPY, 0.001 KWD. Raises ``KeyError`` for an unknown code."""
    return Decimal(1).scaleb(-decimals_of(currency))


def decimals_of(currency: str) -> int:
    """How many decimals the currency has by ISO 4217. Raises ``KeyError`` for an unknown code."""
    if currency in TWO_DECIMALS:
        return 2
    if currency in NO_DECIMALS:
        return 0
    if currency in THREE_DECIMALS:
        return 3
    raise KeyError(currency)
