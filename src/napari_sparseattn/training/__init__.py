"""Train models, and fine-tune them on annotations.

The names in the stub beside this file are for scripts; they are imported when
first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
