"""The version of this package, and those that results are kept with."""

__version__ = "0.1.0.dev0"


def versions() -> dict[str, str]:
    """The backend and the versions, for the settings of a directory that a later process resumes in.

    >>> list(versions())
    ['backend', 'version of Keras', 'version of keras-encnet']
    """
    # Only here: the version alone is needed where Keras would take seconds to load.
    import keras

    return {
        "backend": keras.backend.backend(),
        "version of Keras": keras.version(),
        "version of keras-encnet": __version__,
    }
