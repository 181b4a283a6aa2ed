PARTS: tuple[str, ...] = ("x",)


def measure(*a: object) -> None: ...
