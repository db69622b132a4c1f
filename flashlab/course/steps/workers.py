"""The workers of a workshop that are right: what exercise 15 builds. See `flashlab.course.workshop`."""


def place_and_parity(n, places):
    """(place of tile n, parity of its round): tiles take places in turn, round after round."""
    return n % places, n // places % 2


def carrier(shop, tiles):
    """Brings tiles 0 … tiles − 1, each as soon as its place is empty."""
    for n in range(tiles):
        place, parity = place_and_parity(n, shop.places)
        yield shop.wait(shop.empty[place], 1 - parity)
        yield shop.copy(n, place)


def craft(shop, tiles, begin, end):
    """Multiplies tiles begin … end − 1 of the `tiles` that come, and gives back all of them."""
    for n in range(tiles):
        place, parity = place_and_parity(n, shop.places)
        yield shop.wait(shop.full[place], parity)
        if begin <= n < end:
            yield shop.multiply(n, place)
        yield shop.give_back(place)


def carrier_of(tiles):
    """`carrier` as `workshop.run` takes it."""
    return lambda shop: carrier(shop, tiles)


def craft_of(tiles, begin, end):
    """`craft` as `workshop.run` takes it."""
    return lambda shop: craft(shop, tiles, begin, end)
