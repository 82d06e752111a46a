"""TEMP"""
def save_weights(path, network, config, sources, figures):
    from .checkpoint import write
    write(path, network.state_dict(), {"figures": figures})
