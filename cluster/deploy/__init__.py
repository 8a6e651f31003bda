"""How a cluster for hone is built: images, KubeRay manifests and `ray up`, as templates that administrators keep."""
