"""What several test files share: a real RTSP server, numbered footage, network namespaces."""
