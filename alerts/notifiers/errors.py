"""How a message may fail to arrive."""


class NotDelivered(Exception):
    """It did not arrive, or nobody said that it did: to be tried again."""


class Refused(NotDelivered):
    """It will not arrive as it is: trying again is no use."""
