from .picture import plot_roles as plot_roles
