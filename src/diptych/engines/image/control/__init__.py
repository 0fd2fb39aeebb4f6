"""Pictures that guide how a picture is laid out: ControlNets, T2I-Adapters and IP-Adapters beside the model."""
