"""The names that hyper2kvm imports."""
