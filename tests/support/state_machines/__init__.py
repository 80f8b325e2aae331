"""What the machines of test_states_session.py and test_states_webui.py share: tiny models, files, and what is right."""
