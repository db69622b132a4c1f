"""The workers of a workshop that are right: what exercise 15 builds. See `flashlab.course.workshop`."""


def place_and_parity(n, places):
    """(place of tile n, parity of its round): tiles take places in turn, round after round."""
    return n % places, n // places % 2


def carrier_of(tiles):
    """A carrier that brings tiles 0 … tiles − 1."""

    def carrier(shop):
        for n in range(tiles):
            place, parity = place_and_parity(n, shop.places)
            yield shop.wait(shop.empty[place], 1 - parity)
            yield shop.copy(n, place)

    return carrier


def craft_of(tiles, begin, end):
    """A craft that multiplies tiles begin … end − 1 of the `tiles` that come."""

    def craft(shop):
        for n in range(tiles):
            place, parity = place_and_parity(n, shop.places)
            yield shop.wait(shop.full[place], parity)
            if begin <= n < end:
                yield shop.multiply(n, place)
            yield shop.give_back(place)

    return craft
