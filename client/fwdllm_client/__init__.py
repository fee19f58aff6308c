"""fwdllm_client"""
