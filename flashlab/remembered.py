"""What has been worked out for calls that repeat."""

MOST = 4096  # calls: a model that generates text never sees the same length twice


class Remembered(dict):
    """Answers by call. When there are MOST of them, it begins anew."""

    def keep(self, call, answer):
        """The answer, which the next call like this one finds."""
        if len(self) >= MOST:
            self.clear()
        self[call] = answer
        return answer
